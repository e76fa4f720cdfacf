/* report.h - okv-plot report: one self-contained HTML file of figures, tables and text. */
#ifndef PLOTS_REPORT_H
#define PLOTS_REPORT_H

int report_command(int argc, char **argv);

#endif
