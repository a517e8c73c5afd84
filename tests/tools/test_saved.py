"""A folder is whole or not there; what is in it is what was saved."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from speechbrain_ext.runs.folders import whole_folder
from speechllm.saved import check_saved, check_target, load_plain


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "a/b"
    with whole_folder(str(target)) as folder:
        (tmp_path / folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with pytest.raises(KeyboardInterrupt), whole_folder(str(target)) as folder:
        (tmp_path / folder / "x").write_text("2")
        raise KeyboardInterrupt
    assert (target / "x").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_what_is_not_ours_is_not_overwritten(tmp_path):
    target = tmp_path / "out"
    check_target(str(target), "mark", overwrite=False)
    target.write_text("a file")
    with pytest.raises(ValueError, match="is a file"):
        check_target(str(target), "mark", overwrite=True)
    target.unlink()
    target.mkdir()
    check_target(str(target), "mark", overwrite=False)
    (target / "thesis").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="something else .no mark."):
            check_target(str(target), "mark", overwrite)
    (target / "mark").write_text("")
    with pytest.raises(ValueError, match="--overwrite"):
        check_target(str(target), "mark", overwrite=False)
    check_target(str(target), "mark", overwrite=True)


def test_another_lm_than_the_one_in_memory_is_refused(source, tmp_path):
    lm = AutoModelForCausalLM.from_pretrained(source).eval()
    lm.save_pretrained(tmp_path / "same")
    check_saved(lm, str(tmp_path / "same"))
    with torch.no_grad():
        lm.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(ValueError, match="differs from what was pruned"):
        check_saved(lm, str(tmp_path / "same"))
    file = tmp_path / "same/model.safetensors"
    state = load_file(file)
    state.pop("model.norm.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights missing"):
        load_plain(str(tmp_path / "same"), torch.float32)
