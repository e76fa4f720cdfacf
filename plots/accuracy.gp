# accuracy.gp - bars per task and method, Wilson 95 % intervals, the value above each bar.
load "style.gpi"
do for [s = 1:key_count] {
    set object 2000 + s rectangle from screen key_x[s] + 8.0 / width, key_y[s] - 4.0 / height \
        to screen key_x[s] + 18.0 / width, key_y[s] + 4.0 / height fc rgb colour[s] \
        fs solid border lc rgb ink lw 0.4 front
    set label 3000 + s key_text[s] at screen key_x[s] + 22.0 / width, key_y[s] left textcolor rgb ink
}
p = 1
eval place_panel
group = series + 1
set xrange [-1:tasks * group - 1]
set xtics scale 0 ()
do for [t = 1:tasks] {
    set xtics add (task_name[t] (t - 1) * group + (series - 1) / 2.0)
    set label t task_count[t] at first (t - 1) * group + (series - 1) / 2.0, \
        screen panel_bottom[1] - 22.0 / height center textcolor rgb quiet
}
set yrange [0:upright ? 124 : 114]
set ytics 0, 25, 100
y_title = "answers correct (%)"
eval place_y_title
set boxwidth 0.82
# a share that is not quite all or nothing is not rounded to it
percent(v) = sprintf((v > 0 && v < 1) || (v > 99 && v < 100) ? "%.1f" : "%.0f", v + 1e-9)
place = upright ? 'left rotate by 90 offset 0, 0.35' : 'center offset 0, 0.6'
plot for [s = 1:series] data index s - 1 using 1:2 with boxes fc rgb colour[s] fs solid border lc rgb ink lw 0.4, \
     for [s = 1:series] data index s - 1 using 1:3:(0):($4 - $3) \
         with vectors nohead lw 0.7 lc rgb ink, \
     for [s = 1:series] data index s - 1 using 1:4:(percent($2)) with labels @place textcolor rgb ink
