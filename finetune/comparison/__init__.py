"""Finished runs side by side: settings that differ, scores, cost and answers."""
