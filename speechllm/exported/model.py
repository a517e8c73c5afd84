"""A speech LLM from an exported folder: audio in, text out."""

from dataclasses import replace

import torch
from speechbrain.inference.interfaces import Pretrained

from speechllm.exported.audio import as_sounds
from speechllm.exported.format import ExportError
from speechllm.exported.load import find_export, load_tasks
from speechllm.exported.transcribe import (
    Batching,
    decoding,
    features_of,
    limits_of,
    pieces_of,
    stream_text,
    stream_tokens,
)
from speechllm.multitask import MultiTask

PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class SpeechLLM:
    """One backbone and its tasks, ready to transcribe and translate."""

    def __init__(self, tasks, settings, default_task):
        self.tasks = tasks
        self.settings = settings
        self.default_task = default_task

    @classmethod
    def from_pretrained(
        cls, source, dtype=None, device=None, revision=None, verify=True
    ):
        """Load an export; nothing in it is run, everything is checked."""
        dtype = str(dtype).removeprefix("torch.") if dtype else None
        if dtype not in (None, *PRECISION):
            raise ExportError(f"dtype: {dtype}: choose {', '.join(PRECISION)}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        export = find_export(source, revision, verify)
        tasks = MultiTask(device)
        load_tasks(export, tasks, dtype)
        settings = export.tasks
        if dtype:
            settings = {
                name: replace(one, precision=PRECISION[dtype])
                for name, one in settings.items()
            }
        return cls(tasks, settings, export.config["default_task"])

    @property
    def decoder(self):
        """The shared backbone (speechbrain_ext.model.decoder.Decoder)."""
        return self.tasks.decoder

    def use(self, task):
        """A task's model, its adapter switched on (core SpeechLLM)."""
        return self.tasks.use(task)

    def transcribe(
        self,
        audio,
        batch_size=8,
        task=None,
        piece_seconds=None,
        progress=False,
        on_error="raise",
    ):
        """Text of audio, in any usual format, at any rate, of any length."""
        sounds, single = as_sounds(audio)
        task = self._task(task)
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error: {on_error!r}: choose raise or return")
        work = Batching(
            self.use(task),
            self.settings[task],
            task,
            sounds,
            batch_size,
            on_error == "raise",
        )
        found = work.run(piece_seconds, progress)
        return found[0] if single else found

    def translate(self, audio, task=None, **options):
        """Text of audio in another language."""
        if task is None:
            able = [
                name
                for name, one in self.settings.items()
                if not one.task.startswith("ASR")
            ]
            if len(able) != 1:
                raise ValueError(
                    f"task: say which of the translations {able} is wanted"
                    if able
                    else "task: this model has no translation, only "
                    f"{', '.join(self.settings)}"
                )
            task = able[0]
        return self.transcribe(audio, task=task, **options)

    def stream(self, audio, task=None, piece_seconds=None):
        """Text of one audio, bit by bit, as its tokens are decoded."""
        (sound,), _ = as_sounds([audio])
        task = self._task(task)
        model, settings = self.use(task), self.settings[task]
        sound.check(model.encoder.sample_rate)
        said = False
        for _, wav_N in pieces_of(sound, model, settings, piece_seconds):
            tokens = stream_tokens(lambda: self.use(task), settings, wav_N)
            space = " " if said else ""
            for text in stream_text(tokens, model.prompt.decode):
                yield space + text
                space, said = "", True

    def _task(self, task):
        """A task's name, checked."""
        task = task or self.default_task
        if task not in self.settings:
            raise ValueError(
                f"task: {task!r} is not in this model: choose one of "
                f"{', '.join(self.settings)}"
            )
        return task


# ----------------------------------------------------------------------------
# The same model in the manner of ``speechbrain.inference``.


class SpeechLLMInterface(Pretrained):
    """An exported speech LLM with the methods of SpeechBrain's ASR classes."""

    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["speech_llm"]

    @classmethod
    def from_hparams(
        cls, source, savedir=None, run_opts=None, task=None, **options
    ):
        """Load an export."""
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
        """Texts of a padded batch."""
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
