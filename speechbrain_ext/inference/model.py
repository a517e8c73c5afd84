"""A speech LLM from an exported folder: audio in, text out.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import replace

import torch

from speechbrain_ext.export.layout import ExportError
from speechbrain_ext.inference.batching import Batching, pieces_of
from speechbrain_ext.inference.loading import find_export, load_tasks
from speechbrain_ext.inference.sound import as_sounds
from speechbrain_ext.inference.streaming import stream_text, stream_tokens
from speechbrain_ext.multitask import MultiTask

PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


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
        audio : path, open file, (waveform, rate), dict, or list of these
            Any usual format; mono or more channels (averaged). A dict is
            Hugging Face's, with ``array`` and ``sampling_rate``.
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
        """Text of audio in another language.

        Arguments
        ---------
        audio : path, open file, (waveform, rate), dict, or list of these
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

    def stream(self, audio, task=None, piece_seconds=None):
        """Text of one audio, bit by bit, as its tokens are decoded.

        Arguments
        ---------
        audio : path, open file, (waveform, rate) or dict
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
