"""The same model in the manner of ``speechbrain.inference``.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch
from speechbrain.inference.interfaces import Pretrained

from speechbrain_ext.inference.model import SpeechLLM
from speechbrain_ext.inference.running import (
    decoding,
    features_of,
    limits_of,
)


class SpeechLLMInterface(Pretrained):
    """An exported speech LLM with the methods of SpeechBrain's ASR classes.

    Loaded with `from_hparams`, as they are; only that no YAML is read, since
    a YAML may build any object.

    Arguments
    ---------
    As `speechbrain.inference.interfaces.Pretrained`; use `from_hparams`.

    Example
    -------
    >>> asr = SpeechLLMInterface.from_hparams(
    ...     source="mini", run_opts={"device": "cpu"}
    ... )  # doctest: +SKIP
    >>> asr.transcribe_file("some.wav")  # doctest: +SKIP
    'maria travels from milan to hamburg on saturday'
    """

    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["speech_llm"]

    @classmethod
    def from_hparams(
        cls, source, savedir=None, run_opts=None, task=None, **options
    ):
        """Load an export.

        Arguments
        ---------
        source : str
            A folder that `speechllm export` wrote, or a hub id.
        savedir : str or None
            Not needed: the hub's own cache keeps what is fetched.
        run_opts : dict or None
            SpeechBrain's; ``device`` is used.
        task : str or None
            The export's task; None: its default one.
        **options : dict
            As `speechbrain_ext.inference.SpeechLLM.from_pretrained`.

        Returns
        -------
        SpeechLLMInterface
        """
        del savedir
        device = dict(run_opts or {}).get("device")
        loaded = SpeechLLM.from_pretrained(source, device=device, **options)
        task = task or loaded.default_task
        return cls(
            modules={"model": loaded.use(task)},
            hparams={"speech_llm": loaded, "task": task},
            run_opts=run_opts,
        )

    @property
    def speech_llm(self):
        """The model with all its tasks (SpeechLLM)."""
        return self.hparams.speech_llm

    def transcribe_file(self, path, **options):
        """Text of an audio file (str); options as `SpeechLLM.transcribe`."""
        return self.speech_llm.transcribe(
            path, task=self.hparams.task, **options
        ).text

    @torch.no_grad()
    def transcribe_batch(self, wavs, wav_lens):
        """Texts of a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            ``[B, N]`` at the encoder's rate.
        wav_lens : torch.Tensor
            Length of each as a share of the longest, ``[B]``.

        Returns
        -------
        words : list of str
        tokens : list of list of int
        """
        settings = self.speech_llm.settings[self.hparams.task]
        model = self.speech_llm.use(self.hparams.task)
        lengths = (wav_lens.double().cpu() * wavs.shape[1]).round().long()
        rows = [wav[:n] for wav, n in zip(wavs.float(), lengths.tolist())]
        seconds = [len(row) / model.encoder.sample_rate for row in rows]
        with decoding(model, settings):
            x_BSF, tokens_B = features_of(model, settings, rows)
            sequence = model.sequence(x_BSF, tokens_B, side="left")
            limits_B = limits_of(settings, seconds)
            tokens = model.decoder.greedy(sequence, limits_B)
        return [model.prompt.decode(ids) for ids in tokens], tokens

    def forward(self, wavs, wav_lens):
        """Runs `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)
