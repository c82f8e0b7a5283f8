"""The itv2 gateway: DSC PowerSeries Neo panels that dial in, their state, their history, and who may command them."""
