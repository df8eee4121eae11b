"""What is wrong with an installation, looked for on its servers, this machine and in the settings."""
