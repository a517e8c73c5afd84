"""A speech LLM from an exported folder: audio in, text out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from speechbrain.inference.interfaces import Pretrained

from speechbrain_ext.layers.residual import no_numbers
from speechllm.device import pick_device
from speechllm.exported.audio import as_sounds
from speechllm.exported.format import ExportError, TaskSettings
from speechllm.exported.load import find_export, load_tasks
from speechllm.exported.quantised import INT8, quantise
from speechllm.exported.transcribe import (
    Batching,
    answer_wavs,
    pieces_of,
    stream_ids,
    stream_text,
)
from speechllm.multitask import MultiTask

if TYPE_CHECKING:
    from speechbrain_ext.model.decoder import Decoder
    from speechbrain_ext.model.speech_llm import SpeechLLM

PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class ExportedSpeechLLM:
    """One backbone and its tasks, ready to transcribe and translate."""

    def __init__(
        self,
        tasks: MultiTask,
        settings: dict[str, TaskSettings],
        default_task: str,
    ):
        self.tasks = tasks
        self.settings = settings
        self.default_task = default_task

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        revision: str | None = None,
        verify: bool = True,
    ) -> ExportedSpeechLLM:
        """Load an export; nothing in it is run, everything is checked.

        Arguments
        ---------
        source : str or os.PathLike
            A folder that `speechllm export` wrote, or a hub id.
        dtype : str or torch.dtype or None
            "float32", "bfloat16" or "float16" for the backbone's weights and
            for computing; "int8": as in the run, its layers' matrices in 8
            bits (torchao); None: as in the run. The encoder keeps its type.
        device : str or None
            Where to; None: a GPU if there is one.
        revision : str or None
            Branch, tag or commit on the hub.
        verify : bool
            Compare every file's hash with the manifest's.

        Returns
        -------
        ExportedSpeechLLM

        Raises
        ------
        ExportError
            If the folder is damaged, changed or something else: names the
            file and what to do.
        """
        dtype = str(dtype).removeprefix("torch.") if dtype else None
        if dtype == INT8:
            whole = ExportedSpeechLLM.from_pretrained(
                source, None, device, revision, verify
            )
            return quantise(whole)
        if dtype not in (None, *PRECISION):
            raise ExportError(
                f"dtype: {dtype}: choose {', '.join([*PRECISION, INT8])}"
            )
        device = pick_device(device)
        export = find_export(source, revision, verify)
        tasks = load_tasks(export, device, dtype)
        settings = export.tasks
        if dtype:
            settings = {
                name: replace(one, precision=PRECISION[dtype])
                for name, one in settings.items()
            }
        return cls(tasks, settings, export.config["default_task"])

    def __repr__(self) -> str:
        lm = self.decoder
        tasks = ", ".join(self.settings)
        return (
            f"<ExportedSpeechLLM: {tasks}; {lm.num_layers} layers, "
            f"{str(lm.dtype).removeprefix('torch.')} on {self.device}>"
        )

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.decoder.device

    def to(self, device: str | torch.device) -> ExportedSpeechLLM:
        """Move everything to another device; gives itself."""
        self.tasks.device = torch.device(pick_device(device))
        self.tasks.to(self.tasks.device)
        return self

    @property
    def decoder(self) -> Decoder:
        """The shared backbone."""
        return self.tasks.decoder

    def use(self, task: str) -> SpeechLLM:
        """A task's model, its adapter switched on."""
        return self.tasks.use(task)

    def transcribe(
        self,
        audio: Any,
        batch_size: int = 8,
        task: str | None = None,
        piece_seconds: float | None = None,
        progress: bool = False,
        on_error: str = "raise",
        vad: bool = False,
        sampling_rate: int | None = None,
    ) -> Any:
        """Text of audio, in any usual format, at any rate, of any length.

        Arguments
        ---------
        audio : path, open file, bytes, waveform, dict, or list of these
            Mono or more channels (averaged). A waveform is an array or tensor
            with `sampling_rate`, or a pair (array, rate); a dict Hugging
            Face's, with ``array`` and ``sampling_rate``; bytes are those of a
            file.
        batch_size : int
            Pieces that are decoded together. In half precision, rounding
            may change the text of a few.
        task : str or None
            One of `settings`; None: the default one.
        piece_seconds : float or None
            Longest piece that is decoded at once; None: the longest that the
            model was scored on. Longer audio is cut at quiet points.
        progress : bool
            Show a bar.
        on_error : str
            "raise", or "return": an audio that cannot be read has its error
            in the list, in the place of its transcript.
        vad : bool
            Decode only where silero-vad hears speech (an extra).
        sampling_rate : int or None
            Of waveforms that are given without theirs, in Hz.

        Returns
        -------
        Transcript, or list of Transcript (for a list)

        Raises
        ------
        AudioError
            Naming the file that cannot be used.
        """
        sounds, single = as_sounds(audio, sampling_rate)
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
            vad,
        )
        found = work.run(piece_seconds, progress)
        return found[0] if single else found

    def translate(
        self, audio: Any, task: str | None = None, **options: Any
    ) -> Any:
        """Text of audio in another language; gives what `transcribe` does."""
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

    def stream(
        self,
        audio: Any,
        task: str | None = None,
        piece_seconds: float | None = None,
        vad: bool = False,
        sampling_rate: int | None = None,
    ) -> Iterator[str]:
        """Text of one audio, bit by bit, as its tokens are decoded."""
        (sound,), _ = as_sounds([audio], sampling_rate)
        task = self._task(task)
        model, settings = self.use(task), self.settings[task]
        sound.check(model.encoder.sample_rate)
        said = False
        for _, wav_N, spoken in pieces_of(
            sound, model, settings, piece_seconds, vad
        ):
            if not spoken:
                continue
            ids = stream_ids(
                lambda: self.use(task), settings, wav_N, sound.name
            )
            space = " " if said else ""
            for text in stream_text(ids, model.prompt.decode):
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


class SpeechLLMInterface(Pretrained):
    """An exported speech LLM with the methods of SpeechBrain's ASR classes."""

    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["speech_llm"]

    @classmethod
    def from_hparams(
        cls, source, savedir=None, run_opts=None, task=None, **options
    ) -> SpeechLLMInterface:
        """Load an export, in the manner of ``speechbrain.inference``."""
        del savedir
        device = dict(run_opts or {}).get("device")
        loaded = ExportedSpeechLLM.from_pretrained(
            source, device=device, **options
        )
        task = task or loaded.default_task
        return cls(
            modules={"model": loaded.use(task)},
            hparams={"speech_llm": loaded, "task": task},
            run_opts=run_opts,
        )

    @property
    def speech_llm(self) -> ExportedSpeechLLM:
        """The model with all its tasks."""
        return self.hparams.speech_llm

    def transcribe_file(self, path: str | os.PathLike, **options: Any) -> str:
        """Text of an audio file; options as `ExportedSpeechLLM.transcribe`."""
        return self.speech_llm.transcribe(
            path, task=self.hparams.task, **options
        ).text

    def transcribe_batch(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor
    ) -> tuple[list[str], list[list[int]]]:
        """Texts and token ids of a padded batch."""
        lengths = (wav_lens.double().cpu() * wavs.shape[1]).round().long()
        rows = [wav[:n] for wav, n in zip(wavs.float(), lengths.tolist())]
        task = self.hparams.task
        answers = answer_wavs(
            self.speech_llm.use(task), self.speech_llm.settings[task], rows
        )
        bad = [f"row {i}" for i, one in enumerate(answers) if not one.finite]
        if bad:
            raise ValueError(no_numbers(bad, "what is computed of them"))
        return [one.text for one in answers], [one.ids for one in answers]

    def forward(self, wavs, wav_lens):
        """Runs `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)
