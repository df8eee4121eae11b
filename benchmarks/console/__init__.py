"""The console among many jobs: what it is measured with, how long its pages take, and pictures of them."""
