"""A package that teaches docworker about letters: two kinds of jobs and a step of the pipeline."""
