"""A speech LLM from an exported folder: audio in, text out.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import time
from dataclasses import replace

import torch
from tqdm import tqdm

from speechbrain_ext.export.layout import ExportError
from speechbrain_ext.greedy import Steps
from speechbrain_ext.inference.loading import find_export, load_tasks
from speechbrain_ext.inference.results import Piece, Transcript
from speechbrain_ext.inference.running import (
    decoding,
    features_of,
    limits_of,
)
from speechbrain_ext.inference.sound import as_sounds
from speechbrain_ext.inference.splitting import pieces
from speechbrain_ext.multitask import MultiTask

PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# Batches that are sorted by length together: little padding, and the pieces
# of many hours are never in memory at once.
BATCHES_TOGETHER = 8


class SpeechLLM:
    """One backbone and its tasks, ready to transcribe and translate.

    Arguments
    ---------
    tasks : speechbrain_ext.multitask.MultiTask
        The loaded models.
    settings : dict
        Task name to `speechbrain_ext.export.layout.TaskSettings`.
    default_task : str
        The task of `transcribe` where none is named.

    Example
    -------
    >>> model = SpeechLLM.from_pretrained("mini")  # doctest: +SKIP
    >>> model.transcribe("some.wav").text  # doctest: +SKIP
    'maria travels from milan to hamburg on saturday'
    """

    def __init__(self, tasks, settings, default_task):
        self.tasks = tasks
        self.settings = settings
        self.default_task = default_task

    @classmethod
    def from_pretrained(
        cls, source, dtype=None, device=None, revision=None, verify=True
    ):
        """Load an export; nothing in it is run, everything is checked.

        Arguments
        ---------
        source : str
            A folder that `speechllm export` wrote, or a hub id.
        dtype : str or torch.dtype or None
            "float32", "bfloat16" or "float16" for the backbone's weights and
            for computing; None: as in the run. The encoder keeps its type.
        device : str or None
            Where to; None: a GPU if there is one.
        revision : str or None
            Branch, tag or commit on the hub.
        verify : bool
            Compare every file's hash with the manifest's.

        Returns
        -------
        SpeechLLM

        Raises
        ------
        ExportError
            If the folder is damaged, changed or something else: names the
            file and what to do.
        """
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
        """The shared backbone (speechbrain_ext.decoder.Decoder)."""
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
        """Text of audio, in any usual format, at any rate, of any length.

        Arguments
        ---------
        audio : str, path, (waveform, rate), or list of these
            wav, flac, mp3 or ogg; mono or more channels (averaged).
        batch_size : int
            Pieces that are decoded together. Does not change the text.
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

        Returns
        -------
        Transcript, or list of Transcript (for a list)

        Raises
        ------
        speechbrain_ext.audio.AudioError
            Naming the file that cannot be used.
        """
        sounds, single = as_sounds(audio)
        task = self._task(task)
        rate = self.tasks.models[task].encoder.sample_rate
        found = [Transcript(sound.name, task) for sound in sounds]
        faults = {}
        for index, sound in enumerate(sounds):
            try:
                sound.check(rate)
            except ValueError as error:
                if on_error != "return":
                    raise
                faults[index] = error
        waiting = []
        bar = tqdm(
            total=len(sounds), disable=not progress, unit="file", leave=False
        )
        with bar:
            for index, sound in enumerate(sounds):
                try:
                    if index not in faults:
                        for piece in self._pieces(sound, task, piece_seconds):
                            waiting.append((index, *piece))
                            if len(waiting) == batch_size * BATCHES_TOGETHER:
                                self._decode(waiting, found, task, batch_size)
                                waiting = []
                except ValueError as error:
                    if on_error != "return":
                        raise
                    faults[index] = error
                    waiting = [one for one in waiting if one[0] != index]
                bar.update()
            self._decode(waiting, found, task, batch_size)
        for one in found:
            one.pieces.sort(key=lambda piece: piece.start)
        found = [faults.get(i, one) for i, one in enumerate(found)]
        return found[0] if single else found

    def translate(self, audio, task=None, **options):
        """Text of audio in another language.

        Arguments
        ---------
        audio : str, path, (waveform, rate), or list of these
            As in `transcribe`.
        task : str or None
            A translation task, such as "ast_en_de"; None: the only one.
        **options : dict
            As in `transcribe`.

        Returns
        -------
        Transcript, or list of Transcript (for a list)
        """
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

    @torch.no_grad()
    def stream(self, audio, task=None, piece_seconds=None):
        """Text of one audio, bit by bit, as its tokens are decoded.

        Arguments
        ---------
        audio : str, path or (waveform, rate)
            One audio.
        task : str or None
            As in `transcribe`.
        piece_seconds : float or None
            As in `transcribe`.

        Yields
        ------
        str
            All joined, they are the text that `transcribe` gives.
        """
        (sound,), _ = as_sounds([audio])
        task = self._task(task)
        sound.check(self.tasks.models[task].encoder.sample_rate)
        begun = False
        for _, wav_N in self._pieces(sound, task, piece_seconds):
            for text in self._stream_piece(wav_N, task):
                # A space between two pieces, if the second says anything.
                yield f" {text}" if begun == "piece" else text
                begun = True
            begun = begun and "piece"

    def _stream_piece(self, wav_N, task):
        """The text of one piece, as it grows."""
        settings = self.settings[task]
        model = self.use(task)
        prompt, stops = model.prompt, set(self.decoder.stop_ids)
        with decoding(model, settings):
            x_BSF, tokens_B = features_of(model, settings, [wav_N])
            sequence = model.sequence(x_BSF, tokens_B, side="left")
            seconds = len(wav_N) / model.encoder.sample_rate
            limit = int(limits_of(settings, [seconds])[0])
            steps, ids, told = Steps(self.decoder.lm, sequence), [], ""
        for _ in range(limit):
            # Not around the yield: the caller's code is not to be decoded in
            # this precision.
            with decoding(self.use(task), settings):
                token_B = steps.next_token()
                steps.feed(token_B)
            if int(token_B) in stops:
                break
            ids.append(int(token_B))
            text = prompt.decode(ids)
            # Half of a letter, or a change of heart about a space.
            if text.startswith(told) and not text.endswith("\ufffd"):
                if text != told:
                    yield text[len(told) :]
                told = text
        text = prompt.decode(ids)
        if text != told:
            yield text[len(os.path.commonprefix([text, told])) :]

    def _task(self, task):
        """A task's name, checked."""
        task = task or self.default_task
        if task not in self.settings:
            raise ValueError(
                f"task: {task!r} is not in this model: choose one of "
                f"{', '.join(self.settings)}"
            )
        return task

    def _pieces(self, sound, task, piece_seconds):
        """Start (samples) and waveform of each piece of an audio."""
        encoder = self.tasks.models[task].encoder
        settings = self.settings[task]
        rate = encoder.sample_rate
        longest = int((piece_seconds or settings.piece_seconds) * rate)
        if encoder.max_samples and encoder.long_audio == "error":
            longest = min(longest, encoder.max_samples)
        if longest < 2 * encoder.core.min_samples:
            raise ValueError(
                f"piece_seconds: {piece_seconds}: too short for the encoder"
            )
        for start, wav_N in pieces(sound.blocks(rate), rate, longest):
            encoder.check_length(len(wav_N), sound.name)
            yield start, wav_N

    def _decode(self, waiting, found, task, batch_size):
        """Decode pieces, similar lengths together, into their transcripts."""
        model, settings = self.use(task), self.settings[task]
        rate = model.encoder.sample_rate
        order = sorted(waiting, key=lambda one: -len(one[2]))
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            began = time.monotonic()
            wavs = [wav_N for _, _, wav_N in batch]
            lengths = [len(wav_N) / rate for wav_N in wavs]
            with decoding(model, settings):
                x_BSF, tokens_B = features_of(model, settings, wavs)
                sequence = model.sequence(x_BSF, tokens_B, side="left")
                limits_B = limits_of(settings, lengths)
                answers = self.decoder.greedy(sequence, limits_B)
            spent = time.monotonic() - began
            for (index, start, _), length, ids in zip(
                batch, lengths, answers, strict=True
            ):
                found[index].pieces.append(
                    Piece(
                        start / rate,
                        start / rate + length,
                        model.prompt.decode(ids),
                        len(ids),
                        spent * length / sum(lengths),
                    )
                )
