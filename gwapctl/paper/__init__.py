"""The papers' tables beside what was measured, and a page per run. Built from run folders alone, without torch."""
