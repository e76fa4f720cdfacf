# overlap.gp - a square heat map; cells without a value show the grey behind them.
load "style.gpi"
p = 1
eval place_panel
unset grid
unset key
set border 15 lw 0.6 lc rgb ink
set tics out scale 0.4
x_title = index . " j"
eval place_x_title
y_title = index . " i"
eval place_y_title
set xrange [first - 0.5:last + 0.5]
set yrange [last + 0.5:first - 0.5]
set xtics first, step, last
set ytics first, step, last
set object 1 rectangle from graph 0, 0 to graph 1, 1 behind fc rgb absent fs solid noborder
set cbrange [box_lo:box_hi]
set cbtics box_lo, box_step scale 0.4
set format cb box_format
set colorbox user origin screen panel_right[1] + 8.0 / width, screen panel_bottom[1] \
    size screen 9.0 / width, screen panel_top[1] - panel_bottom[1] noborder
set label 1 box_label at screen panel_right[1] + (34.0 + box_wide) / width, \
    screen (panel_bottom[1] + panel_top[1]) / 2 center rotate by 90 textcolor rgb ink
set label 2 box_range at screen panel_right[1] + (46.0 + box_wide) / width, \
    screen (panel_bottom[1] + panel_top[1]) / 2 center rotate by 90 textcolor rgb quiet
# an SVG viewer would blur a small image, so its cells are rectangles unless they are very many
if (format eq "svg" && last - first < 128) {
    plot data using 1:2:3 with image pixels
} else {
    plot data using 1:2:3 with image
}
