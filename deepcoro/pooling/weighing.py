"""What the poolers that weigh clips by attention do alike."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.features import VideoFeatures
from deepcoro.pooling.study import HierarchicalBlock, StudyPooler


class WeighingPooler(StudyPooler):
    """Joins the clips by an attention over them, and where it is hierarchical the tokens of each clip by another one before."""

    def __init__(
        self,
        dim: int,
        config: HierarchicalBlock,
        make_attention: Callable[[], nn.Module],
        pooled_dim: int | None = None,
    ) -> None:
        """`make_attention` builds one of deepcoro.pooling.attention."""
        super().__init__(dim, config, pooled_dim)
        self.within = make_attention() if config.hierarchical else None
        self.across = make_attention()

    def summarise(self, features: VideoFeatures) -> Float[Tensor, "study clip dim"]:
        if self.within is None:
            return features.per_video()
        return self.within(features.tokens)[0]

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study pooled"]:
        return self.across(clips, clip_mask)[0]

    def weigh(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        return self.across(clips, clip_mask)[1]
