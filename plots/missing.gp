# missing.gp - attention mass missed per decode step: the mean, and a band up to the worst.
load "style.gpi"
load "key.gpi"
# curves have no markers here; the last legend entry is the band
do for [s = 1:key_count] { unset label 2000 + s }
s = key_count
unset arrow 2000 + s
set object 2000 + s rectangle from screen key_x[s], key_y[s] - 3.5 / height \
    to screen key_x[s] + 18.0 / width, key_y[s] + 3.5 / height fc rgb (series > 1 ? quiet : colour[1]) \
    fs transparent solid 0.22 noborder front
p = 1
eval place_panel
eval place_y
set xrange [x_lo:x_hi > x_lo ? x_hi : x_lo + 1]
set xtics x_lo, x_step
x_title = "decode step"
eval place_x_title
y_title = "attention mass missed"
eval place_y_title
plot for [s = 1:series] data index s - 1 using 1:2:4 \
         with filledcurves fc rgb colour[s] fs transparent solid 0.22 noborder, \
     for [s = 1:series] data index s - 1 using 1:2 with lines ls s
