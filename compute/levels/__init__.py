"""Levels of theory: engines that label structures, behind one interface."""
