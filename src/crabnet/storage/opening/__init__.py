"""Opening a data dir: the survey, the recovery table and the repairs."""
