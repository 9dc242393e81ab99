//! What is trained, what is minimised, how the step is taken
