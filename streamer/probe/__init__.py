"""`touchline probe`: a look at a stream before it is watched."""
