# latency.gp - decode time against context length, or selected tokens, with rooflines;
# out-of-memory marks above.
load "style.gpi"
# dashes mean roofline here: measured curves are solid, and apart by colour and marker
do for [s = 1:8] { set style line s dt solid }
load "key.gpi"
do for [s = named + 1:key_count] {
    unset label 2000 + s
    if (s == named + 1 && rooflines > 0) {
        set arrow 2000 + s from screen key_x[s], key_y[s] to screen key_x[s] + 18.0 / width, key_y[s] \
            nohead lw 1 lc rgb quiet dt (4, 3)
    } else {
        unset arrow 2000 + s
        set label 2000 + s "" at screen key_x[s] + 9.0 / width, key_y[s] point pt 2 ps 0.6 lw 1.3 \
            lc rgb quiet
    }
}
p = 1
eval place_panel
set logscale xy
set xrange [x_lo:x_hi]
set xtics ()
do for [t = 1:x_count] { set xtics add (x_text[t] x_at[t]) }
# the panel above y_hi holds the rows of marks, 10 points each
strip = rows * 10.0 / (panel_high - rows * 10.0)
top = y_hi * (y_hi / y_lo) ** strip
row(r) = y_hi * (top / y_hi) ** ((r - 0.5) / rows)
set yrange [y_lo:top]
set ytics ()
do for [t = 1:y_count] { set ytics add (y_text[t] y_at[t]) }
if (rows > 0) { set arrow 1 from graph 0, first y_hi to graph 1, first y_hi nohead lw 0.4 lc rgb quiet }
x_title = x_words
eval place_x_title
y_title = "decode time (ms/token)"
eval place_y_title
plot for [s = 1:series] data index s - 1 using 1:5 with lines lw 1 lc rgb colour[s] dt (4, 3), \
     for [s = 1:series] data index s - 1 using 1:3:(0):($4 - $3) \
         with vectors nohead lw 0.8 lc rgb colour[s], \
     for [s = 1:series] data index s - 1 using 1:2 with linespoints ls s, \
     for [s = 1:series] data index series + s - 1 using 1:(rows > 0 ? row(row_of[s]) : NaN) \
         with points pt 2 ps 0.6 lw 1.3 lc rgb colour[s]
