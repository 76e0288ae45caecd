"""``report``: runs as one HTML file that is read without a network.

Pictures are drawn in the reader's browser by uPlot 1.6.32 (MIT licence), whose files lie in ``static/`` as the npm
package ``uplot`` ships them: 53 kB in every report, where plotly's bundle would be 4.5 MB.
"""
