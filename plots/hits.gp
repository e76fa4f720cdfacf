# hits.gp - attention mass and recall against the budget, which doubles from tick to tick.
load "style.gpi"
load "key.gpi"
set logscale x 2
set xrange [x_lo / 1.08:x_hi * 1.08]
set xtics ()
do for [t = 1:x_count] { set xtics add (x_text[t] x_at[t]) }
x_title = "budget k (tokens)"
set multiplot
do for [p = 1:panels] {
    eval place_panel
    eval place_y
    eval place_x_title
    eval place_name
    plot for [s = 1:series] data index (p - 1) * series + s - 1 using 1:2 with linespoints ls s
    do for [s = 1:key_count] { unset arrow 2000 + s; unset label 2000 + s; unset label 3000 + s }
    unset label 1000
}
unset multiplot
