"""Features + targets -> one loss; each owns its head. One file an objective, named as its `type` in YAML.

`Config.build(beside)` gives a module with `reads` (which of "study", "clips", "text", "visible" it wants of Features: passes that no
objective reads are not run), `forward(features, batch)` -> `sum` [1] (this rank's share) and metrics [1], `count(batch)` [1] (its
targets, from the batch alone: over ranks and micro-batches, sum of sums / sum of counts is the loss). One whose loss has several parts,
each over its own targets, gives `sum` and `count` [part] and names the parts with their weights in `parts`. One that compares rows with each
other has `loss_of(embedded)`, its forward without parameters, and `forward(features, batch, embed_only=True)` gives `embedded`, whose
rows can be joined over micro-batches (`deepcoro/gradient_cache.py` says how it looks). One that reads "visible", of which a run has
at most one, has `shown_units(batch, num_clips)`; one that says something of each row of an evaluation has `evaluate(features, batch)` ->
{number: [row, ...]}, equally wide in every batch and on every rank. All are called under the run's autocast: what needs fp32
switches it off.

The Config may have `needed_fields()` -> {field: block}: fields it reads, which `data.fields` then need not name (labels: `{"labels":
{"columns": [...], "values": {column: {word: number}}}}`, batch entry `labels` {column: [row], NaN = not assessed}, class counts in
`Surroundings.label_counts`); and `reads_text = True` (a ClassVar) if it needs the text tower or its tokenizer: a run in which none
does has neither (`deepcoro/implied.py`). For stored features of a frozen video tower it says `reads_films = True` if it reads
`Features.video` or `visible`, and `reads_tokens = True` if it (or a pooler) reads more of `Features.clips` than `per_video()`.
`best_metric(name)` -> (key of results.json, max or min) is what chooses the checkpoint of a run without contrastive that names none;
`own_groups()` -> {path below the objective: {"lr", "weight_decay"}} names parameters that are optimised otherwise than the rest.
"""

from deepcoro.config import choice
from deepcoro.objectives import captioning, contrastive, linear_probing, masked_modeling

Objective = choice(contrastive.Config, captioning.Config, masked_modeling.Config, linear_probing.Config)
