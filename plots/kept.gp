# kept.gp - accuracy against the tokens kept, with 95 % bands: one panel per task.
load "style.gpi"
# dashes mean that a method has no budget: the other curves are solid, and apart by colour and marker
do for [s = 1:8] { set style line s dt solid }
load "key.gpi"
do for [s = 1:series] {
    if (level[s] > 0) {
        unset label 2000 + s
        set arrow 2000 + s from screen key_x[s], key_y[s] to screen key_x[s] + 18.0 / width, key_y[s] \
            nohead lw 1.3 lc rgb colour[s] dt (4, 3)
    }
}
set logscale x 2
set xrange [x_lo:x_hi]
set xtics ()
do for [t = 1:x_count] { set xtics add (x_text[t] x_at[t]) }
set yrange [-3:103]
set ytics 0, 25, 100
x_title = "tokens kept (K = 1,024)"
y_title = "answers correct (%)"
set multiplot
do for [p = 1:panels] {
    eval place_panel
    eval place_x_title
    eval place_name
    if ((p - 1) % int(columns) == 0) { eval place_y_title }
    plot for [s = 1:series] data index (p - 1) * series + s - 1 using 1:(level[s] > 0 ? NaN : $3):4 \
             with filledcurves fc rgb colour[s] fs transparent solid 0.15 noborder, \
         for [s = 1:series] data index (p - 1) * series + s - 1 using 1:(level[s] > 0 ? $2 : NaN) \
             with lines lw 1.3 lc rgb colour[s] dt (4, 3), \
         for [s = 1:series] data index (p - 1) * series + s - 1 using 1:(level[s] > 0 ? NaN : $2) \
             with linespoints ls s
    do for [s = 1:key_count] { unset arrow 2000 + s; unset label 2000 + s; unset label 3000 + s }
    unset label 1000
    unset label 1001
}
unset multiplot
