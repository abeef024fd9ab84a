"""What an answer is, one file a task: its metrics, the score that arms are judged by, agreement with the teacher."""
