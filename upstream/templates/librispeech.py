"""The manifests of LibriSpeech from SpeechBrain's own prepare script."""

from librispeech_prepare import prepare_librispeech


def prepare(hparams):
    """Write the manifests of the settings' splits."""
    prepare_librispeech(
        hparams["data_folder"],
        hparams["manifest_folder"],
        tr_splits=hparams["train_splits"],
        dev_splits=hparams["valid_splits"],
        te_splits=hparams["test_splits"],
        skip_prep=hparams["skip_prep"],
    )
