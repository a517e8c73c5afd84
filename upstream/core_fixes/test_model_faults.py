"""Faults of SpeechBrain's model wrappers, each with the example that shows it."""

import pytest
import torch
from speechbrain.lobes.models.VanillaNN import VanillaNN

fault = pytest.mark.xfail(strict=True, raises=AssertionError)


@fault
def test_a_projection_into_embeddings_may_be_negative():
    torch.manual_seed(0)
    inputs = torch.randn(2, 5, 8)
    net = VanillaNN(inputs.shape, activation=torch.nn.ReLU, dnn_neurons=4)
    assert (net(inputs) < 0).any()


@fault
def test_normalised_features_do_not_depend_on_padding(tmp_path):
    """The wrapper's ``output_norm`` takes time and padding together."""
    transformers = pytest.importorskip("transformers")
    from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(10, 4),
        conv_stride=(5, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=True
    ).save_pretrained(tmp_path)
    wrapper = Wav2Vec2(
        str(tmp_path), str(tmp_path), output_norm=True, freeze=True
    )
    wav_N = torch.randn(4000)
    padded_BN = torch.stack(
        [torch.cat([wav_N, torch.zeros(4000)]), torch.randn(8000)]
    )
    alone_BTE = wrapper(wav_N[None], torch.ones(1))
    batch_BTE = wrapper(padded_BN, torch.tensor([0.5, 1.0]))
    frames = alone_BTE.shape[1] - 2  # the last ones see past the end
    torch.testing.assert_close(
        batch_BTE[0, :frames], alone_BTE[0, :frames], atol=1e-2, rtol=1e-2
    )
