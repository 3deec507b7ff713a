"""Features + targets -> one loss; each owns its head. One file an objective, named as its `type` in YAML.

`Config.build(beside)` gives a module with `reads` (which of "study", "clips", "text", "visible" it wants of Features: passes that no
objective reads are not run), `forward(features, batch)` -> `sum` [1] (this rank's share) and metrics [1], `count(batch)` [1] (its
targets, from the batch alone: over ranks and micro-batches, sum of sums / sum of counts is the loss). One that compares rows with each
other has `loss_of(embedded)`, its forward without parameters, and `forward(features, batch, embed_only=True)` gives `embedded`, whose
rows can be joined over micro-batches (`deepcoro/gradient_cache.py` says how it looks). One that reads "visible" has
`shown_units(batch, num_clips)`; one that says something of each row of an evaluation has `evaluate(features, batch)` ->
{number: [row, ...]}, equally wide in every batch and on every rank. All are called under the run's autocast: what needs fp32
switches it off.
"""

from deepcoro.config import choice
from deepcoro.objectives import captioning, contrastive, masked_modeling

Objective = choice(contrastive.Config, captioning.Config, masked_modeling.Config)
