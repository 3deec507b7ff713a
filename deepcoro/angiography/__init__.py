"""Coronary angiography: the vocabulary, the report grammar (render and parse), and a generator of labelled films.

The way of a film: `cohort` draws who the patient is, `tree` builds the arteries, `lumen` fills them, `motion` and
`contrast` move them and the bolus, `render` projects and exposes, `write_dicom` or `write_avi` store, `folder` writes all.
"""
