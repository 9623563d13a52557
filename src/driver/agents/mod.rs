//! Client of Homeward's own agents.
