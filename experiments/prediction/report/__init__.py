"""Tables, figures and the page of a population's analysis."""
