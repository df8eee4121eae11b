"""What is done to documents: the tasks, how they are enqueued, and the pipeline they run."""
