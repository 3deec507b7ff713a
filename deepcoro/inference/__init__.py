"""From a hospital's files to answers: films opened, a checkpoint asked, the answers written; no shards and no labels needed."""
