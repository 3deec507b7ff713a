"""Who is a positive of whom, beyond the film's own report. One file a rule, named as its `type` in YAML.

`Config.likeness` says how texts are compared (None = by their ids alone) and `Config.threshold` from where on they are positives.
`Config.describer(texts)` gives the picklable function from a text to what the rule sees of it (None = nothing); `texts` are those of
the train split, and are read only if `Config.learns`.
"""

from deepcoro.config import choice
from deepcoro.positives import findings, report_id, similarity

Positives = choice(report_id.Config, findings.Config, similarity.Config)
