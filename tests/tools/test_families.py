"""docs/families.md says what the walk over all families says."""

import families
import pytest
import transformers


@pytest.mark.timeout(600)
def test_the_page_is_what_the_walk_says():
    page = families.PAGE.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__} " not in page:
        pytest.skip("the page is about another version of transformers")
    assert families.page(families.walk()) == page
    assert "## Wrong" not in page


def test_the_walk_sees_a_wrong_layer(monkeypatch):
    """Were the wrong layers kept, it would say so."""
    loading = families.load_pruned
    monkeypatch.setattr(
        families, "load_pruned", lambda source, removed: loading(source, {3})
    )
    said, remark = families.verdict("llama")
    assert said == "wrong" and "load_pruned" in remark
