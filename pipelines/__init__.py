"""noterec's jobs in orchestrators: thin, since all the work is in noterec itself."""
