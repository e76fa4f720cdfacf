# rank.gp - a metric over layers with 95 % bands: one panel per metric, one curve per k.
load "style.gpi"
load "key.gpi"
set xrange [x_lo - 0.5:x_hi + 0.5]
set xtics x_lo - floor(x_lo) % int(x_step), x_step
if (marks > 0) {
    # the last legend entry is the dotted line of a mark
    s = key_count
    set arrow 2000 + s from screen key_x[s], key_y[s] to screen key_x[s] + 18.0 / width, key_y[s] \
        nohead lw 0.8 lc rgb quiet dt (2, 3)
    unset label 2000 + s
}
x_title = "layer"
set multiplot
do for [p = 1:panels] {
    eval place_panel
    eval place_y
    eval place_x_title
    eval place_name
    do for [m = 1:marks] {
        set arrow m from mark_at[m], graph 0 to mark_at[m], graph 1 nohead lw 0.8 lc rgb quiet dt (2, 3) back
    }
    plot for [s = 1:series] data index (p - 1) * series + s - 1 using 1:3:4 \
             with filledcurves fc rgb colour[s] fs transparent solid 0.18 noborder, \
         for [s = 1:series] data index (p - 1) * series + s - 1 using 1:2 with linespoints ls s
    do for [s = 1:key_count] { unset arrow 2000 + s; unset label 2000 + s; unset label 3000 + s }
    unset label 1000
}
unset multiplot
