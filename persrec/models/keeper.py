"""What compressors share: how the numbers of a memory are kept."""

from torch import Tensor, nn

from persrec.models.encodings import round_trip


class Keeper(nn.Module):
    """A compressor whose memory is kept in an encoding: what a later fold reads is what a store would give back.

    While it is trained the encoding is left out, unless `straight_through` asks for its values with the gradient of
    the numbers themselves (arXiv 1308.3432).
    """

    def __init__(self, *, encoding: str = "float32", straight_through: bool = False) -> None:
        super().__init__()
        self.encoding, self.straight_through = encoding, straight_through
        self.maker = ""  # fingerprint that the memories carry; empty while parameters are being trained

    @property
    def stored(self) -> int:
        """See `Compressor.stored`."""
        return 1

    @property
    def rounds(self) -> bool:
        """Whether numbers are rounded now."""
        return self.encoding != "float32" and (self.straight_through or not self.training)

    def kept(self, states: Tensor) -> Tensor:
        """States (..., D) as they are kept."""
        return round_trip(states, self.encoding) if self.rounds else states
