# needle.gp - heat maps of accuracy over length and depth, one panel per method.
load "style.gpi"
unset grid
set border 15 lw 0.6 lc rgb ink
set tics out scale 0.4
set xrange [0.5:lengths + 0.5]
set yrange [depths + 0.5:0.5]
set xtics ()
do for [i = 1:lengths] { set xtics add (length_name[i] i) }
set ytics ()
do for [i = 1:depths] { set ytics add (depth_name[i] i) }
set object 1 rectangle from graph 0, 0 to graph 1, 1 behind fc rgb absent fs solid noborder
set cbrange [0:100]
set cbtics 0, 25, 100 scale 0.4
set format cb "%g"
set colorbox user origin screen panel_right[columns] + 8.0 / width, screen panel_bottom[panels] \
    size screen 9.0 / width, screen panel_top[1] - panel_bottom[panels] noborder
set label 1 "answers correct (%)" at screen 1 - 6.0 / width, \
    screen (panel_bottom[panels] + panel_top[1]) / 2 center rotate by 90 textcolor rgb ink
x_title = "tokens (K = 1,024)"
y_title = "depth (%)"
# a share that is not quite all or nothing is not rounded to it
percent(v) = v > 0 && v < 1 ? "<1" : v > 99 && v < 100 ? ">99" : sprintf("%.0f", v + 1e-9)
set multiplot
do for [p = 1:panels] {
    eval place_panel
    eval place_x_title
    eval place_name
    if ((p - 1) % int(columns) == 0) { eval place_y_title }
    plot data index p - 1 using 1:2:(0.5):(0.5):3 with boxxyerror fc palette lw 0.5 fs solid border lc rgb "#ffffff", \
         data index p - 1 using 1:2:(numbered > 0 && $3 < 55 ? percent($3) : "") \
             with labels center textcolor rgb "#ffffff", \
         data index p - 1 using 1:2:(numbered > 0 && $3 >= 55 ? percent($3) : "") \
             with labels center textcolor rgb ink
    unset colorbox
    unset label 1
    unset label 1000
    unset label 1001
}
unset multiplot
