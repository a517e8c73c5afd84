"""What a transcription gives: text, its pieces in time, and what it cost.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import asdict, dataclass, field


@dataclass
class Piece:
    """A stretch of audio that was decoded at once.

    Arguments
    ---------
    start, end : float
        Seconds from the beginning of the audio.
    text : str
        What was said in it.
    tokens : int
        Tokens decoded.
    seconds : float
        Its share of the time that its batch took, by length.
    """

    start: float
    end: float
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Transcript:
    """The text of one audio.

    Arguments
    ---------
    name : str
        The file's path, or what else it is called.
    task : str
        The task that gave the text.
    pieces : list of Piece
        In time order, without gaps.

    Example
    -------
    >>> pieces = [Piece(0.0, 2.0, "one two", 2), Piece(2.0, 3.0, "three", 1)]
    >>> Transcript("a.wav", "asr", pieces).text
    'one two three'
    """

    name: str
    task: str
    pieces: list = field(default_factory=list)

    @property
    def text(self):
        """All pieces' text, put together (str)."""
        return " ".join(p.text for p in self.pieces if p.text)

    @property
    def tokens(self):
        """Tokens decoded (int)."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def seconds(self):
        """Seconds that it took (float)."""
        return sum(piece.seconds for piece in self.pieces)

    @property
    def audio_seconds(self):
        """Length of the audio in seconds (float)."""
        return self.pieces[-1].end if self.pieces else 0.0

    def as_dict(self):
        """Plain values, for JSON (dict)."""
        return {
            "name": self.name,
            "task": self.task,
            "text": self.text,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "pieces": [asdict(piece) for piece in self.pieces],
        }
