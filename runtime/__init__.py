"""What both programs' shells share: configuration, console, logs, database, files, channels, metrics, models."""
