/*
 * Weekly CO2 at Mauna Loa, 13 weeks ahead: a trained PyTorch model run as a stream through lite_mamba.h.
 *
 *     forecast [data directory] [plot.svg]
 *
 * The model of examples/co2/train.py is a linear input map, three lite-mamba layers with residual
 * connections and a linear output map. The layers read everything up to the end of 1989 with
 * lm_forward, which leaves their states in caches; from there on each week is one lm_step per layer.
 */
#include <lite_mamba.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUM_LAYERS = 3, NUM_FEATURES = 5, MAX_D_MODEL = 64, MAX_WEEKS = 4096, HORIZON = 13, YEAR = 52 };

/* Forecasts are stored under the week they are for, not the week they are made in. */
enum { MODEL, PERSISTENCE, SEASONAL, SEASONAL_GROWTH, NUM_FORECASTS };
static const char *const forecast_names[NUM_FORECASTS] = {
    "lite-mamba", "persistence", "seasonal naive", "seasonal naive + growth"};

struct series {
    size_t weeks;
    char date[MAX_WEEKS][11];
    double measured[MAX_WEEKS]; /* ppm, NaN in a week without a measurement */
    double co2[MAX_WEEKS];      /* the same with the gaps filled */
    float features[MAX_WEEKS][NUM_FEATURES];
    size_t first_streamed;             /* the first week after the prefill */
    float reference_change[MAX_WEEKS]; /* PyTorch's outputs from that week on */
    double forecast[NUM_FORECASTS][MAX_WEEKS + HORIZON];
};

struct model {
    lm_layer *layers[NUM_LAYERS];
    lm_cache *caches[NUM_LAYERS];
    size_t d_model;
    float input_weight[MAX_D_MODEL * NUM_FEATURES], input_bias[MAX_D_MODEL];
    float output_weight[MAX_D_MODEL], output_bias[1];
};

struct score {
    size_t weeks;
    double rmse, mae;
};

static void fail(const char *what, const char *why) {
    fprintf(stderr, "forecast: %s: %s\n", what, why);
    exit(1);
}

/* Every status is checked; the library's message names the argument and what it must be. */
static void check(lm_status status, const char *call) {
    if (status != LM_OK) {
        fprintf(stderr, "forecast: %s: %s: %s\n", call, lm_status_name(status), lm_last_error());
        exit(1);
    }
}

/* ---- files ---------------------------------------------------------------------------------- */

static const char *join(const char *directory, const char *name) {
    static char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path)
        fail(directory, "the path is too long");
    return path;
}

static FILE *open_file(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (file == NULL)
        fail(path, "cannot be opened");
    return file;
}

/* One `date,number` row of a CSV file, past comments and the header; an empty number is NaN. */
static bool read_row(FILE *file, char date[11], double *number) {
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
        *number = NAN;
        if (line[0] >= '0' && line[0] <= '9' && sscanf(line, "%10[^,],%lf", date, number) >= 1)
            return true;
    }
    return false;
}

static void read_series(struct series *s, const char *path) {
    FILE *file = open_file(path, "r");
    while (s->weeks < MAX_WEEKS && read_row(file, s->date[s->weeks], &s->measured[s->weeks]))
        s->weeks++;
    fclose(file);
    if (s->weeks <= YEAR)
        fail(path, "holds too few weeks");
}

static void read_reference(struct series *s, const char *path) {
    char date[11];
    double change;
    FILE *file = open_file(path, "r");
    size_t t = 0;
    while (read_row(file, date, &change)) {
        if (t == 0) {
            while (t < s->weeks && strcmp(s->date[t], date) != 0)
                t++;
            s->first_streamed = t;
        }
        if (t >= s->weeks || strcmp(s->date[t], date) != 0)
            fail(path, "does not follow the weeks of the series");
        s->reference_change[t++] = (float)change;
    }
    fclose(file);
    if (t != s->weeks)
        fail(path, "does not reach the last week of the series");
    if (s->first_streamed < YEAR || s->weeks - s->first_streamed < YEAR)
        fail(path, "must leave a year to either side of its first week");
}

/* The linear maps are in co2.safetensors too; this text spares the example a parser. */
static void read_map(FILE *file, const char *name, float *values, size_t count) {
    char found[64];
    size_t found_count;
    if (fscanf(file, "%63s %zu", found, &found_count) != 2 || strcmp(found, name) != 0 || found_count != count)
        fail(name, "is not where co2_maps.txt should have it, or has another size");
    for (size_t i = 0; i < count; i++)
        if (fscanf(file, "%f", &values[i]) != 1)
            fail(name, "is cut short");
}

/* ---- what train.py does to the series before the model sees it ------------------------------ */

static void prepare(struct series *s) {
    const double pi = 3.141592653589793;
    for (size_t t = 0; t < s->weeks; t++) {
        /* A gap takes last week's value plus the change seen at this place a year ago. */
        s->co2[t] = s->measured[t];
        if (isnan(s->measured[t]) && t > 0)
            s->co2[t] = s->co2[t - 1] + (t > YEAR ? s->co2[t - YEAR] - s->co2[t - YEAR - 1] : 0.0);

        size_t first = t + 1 >= YEAR ? t + 1 - YEAR : 0;
        double sum = 0.0;
        for (size_t i = first; i <= t; i++)
            sum += s->co2[i];
        double angle = 2.0 * pi * 7.0 * (double)t / 365.2425;
        float *x = s->features[t];
        x[0] = (float)(s->co2[t] - sum / (double)(t + 1 - first)); /* above the mean of a year */
        x[1] = (float)(t > 0 ? s->co2[t] - s->co2[t - 1] : 0.0);
        x[2] = (float)(t >= YEAR ? s->co2[t] - s->co2[t - YEAR] : 0.0);
        x[3] = (float)sin(angle);
        x[4] = (float)cos(angle);
    }
}

/* ---- the model ------------------------------------------------------------------------------ */

static void model_load(struct model *model, const char *directory) {
    for (int i = 0; i < NUM_LAYERS; i++) {
        /* The file's metadata holds each layer's configuration, so none is given here. */
        char prefix[16];
        snprintf(prefix, sizeof prefix, "layers.%d", i);
        check(lm_load(join(directory, "co2.safetensors"), prefix, NULL, &model->layers[i]), "lm_load");

        lm_config config;
        check(lm_get_config(model->layers[i], &config, sizeof config), "lm_get_config");
        if (config.d_model > MAX_D_MODEL || (i > 0 && config.d_model != model->d_model))
            fail(prefix, "has a d_model that this program does not expect");
        model->d_model = config.d_model;

        /* One stream. The state does not grow with it, so the length is only said for form. */
        check(lm_alloc_cache(model->layers[i], 1, MAX_WEEKS, LM_DTYPE_DEFAULT, &model->caches[i]),
              "lm_alloc_cache");
    }
    FILE *file = open_file(join(directory, "co2_maps.txt"), "r");
    read_map(file, "input.weight", model->input_weight, model->d_model * NUM_FEATURES);
    read_map(file, "input.bias", model->input_bias, model->d_model);
    read_map(file, "output.weight", model->output_weight, model->d_model);
    read_map(file, "output.bias", model->output_bias, 1);
    fclose(file);
}

static void model_free(struct model *model) {
    for (int i = 0; i < NUM_LAYERS; i++) {
        lm_free_cache(model->caches[i]);
        lm_destroy(model->layers[i]);
    }
}

/* y = weight x + bias, weight of shape (rows, columns) as in PyTorch */
static void linear(const float *weight, const float *bias, size_t rows, size_t columns, const float *x, float *y) {
    for (size_t r = 0; r < rows; r++) {
        y[r] = bias[r];
        for (size_t c = 0; c < columns; c++)
            y[r] += weight[r * columns + c] * x[c];
    }
}

/* The first weeks in one go, for the states that they leave behind; their forecasts are not used. */
static void model_prefill(struct model *model, float (*features)[NUM_FEATURES], size_t weeks) {
    size_t d_model = model->d_model;
    float *h = malloc(2 * weeks * d_model * sizeof *h);
    if (h == NULL)
        fail("prefill", "out of memory");
    float *y = h + weeks * d_model;
    for (size_t t = 0; t < weeks; t++)
        linear(model->input_weight, model->input_bias, d_model, NUM_FEATURES, features[t], h + t * d_model);
    for (int i = 0; i < NUM_LAYERS; i++) {
        check(lm_forward(model->layers[i], h, 1, weeks, model->caches[i], y), "lm_forward");
        for (size_t j = 0; j < weeks * d_model; j++)
            h[j] += y[j];
    }
    free(h);
}

/* One week in, the change expected over the next 13 weeks out, in ppm. */
static float model_step(struct model *model, const float features[NUM_FEATURES]) {
    float h[MAX_D_MODEL], y[MAX_D_MODEL], change;
    linear(model->input_weight, model->input_bias, model->d_model, NUM_FEATURES, features, h);
    for (int i = 0; i < NUM_LAYERS; i++) {
        check(lm_step(model->layers[i], h, model->caches[i], y), "lm_step");
        for (size_t j = 0; j < model->d_model; j++)
            h[j] += y[j];
    }
    linear(model->output_weight, model->output_bias, 1, model->d_model, h, &change);
    return change;
}

/* ---- the result ----------------------------------------------------------------------------- */

/* Only weeks that were measured count, and only those forecast from the streamed weeks. */
static struct score score(const struct series *s, const double *forecast) {
    struct score score = {0, 0.0, 0.0};
    for (size_t t = s->first_streamed + HORIZON; t < s->weeks; t++) {
        if (isnan(s->measured[t]))
            continue;
        double error = forecast[t] - s->measured[t];
        score.rmse += error * error;
        score.mae += fabs(error);
        score.weeks++;
    }
    score.rmse = sqrt(score.rmse / (double)score.weeks);
    score.mae /= (double)score.weeks;
    return score;
}

struct panel {
    double left, top, width, height;
    size_t first, last; /* weeks */
    double low, high;   /* ppm */
};

static double x_of(const struct panel *p, size_t t) {
    return p->left + p->width * ((double)t - (double)p->first) / (double)(p->last - p->first);
}

static double y_of(const struct panel *p, double ppm) {
    return p->top + p->height * (p->high - ppm) / (p->high - p->low);
}

/* Scale to the measurements and draw what lies behind the curves: title, frame, grid, axis labels. */
static void draw_panel(FILE *svg, struct panel *p, const struct series *s, const char *title, int ppm_step) {
    p->low = INFINITY;
    p->high = -INFINITY;
    for (size_t t = p->first; t < s->weeks; t++) {
        p->low = fmin(p->low, s->co2[t]);
        p->high = fmax(p->high, s->co2[t]);
    }
    p->low = ppm_step * floor((p->low - 0.5) / ppm_step);
    p->high = ppm_step * ceil((p->high + 0.5) / ppm_step);

    double bottom = p->top + p->height;
    fprintf(svg, "<text x='%.1f' y='%.1f' class='head'>%s</text>\n", p->left, p->top - 10, title);
    for (double ppm = p->low; ppm <= p->high; ppm += ppm_step) {
        double y = y_of(p, ppm);
        fprintf(svg, "<path d='M%.1f %.1fh%.1f' class='grid'/>", p->left, y, p->width);
        fprintf(svg, "<text x='%.1f' y='%.1f' text-anchor='end'>%.0f</text>\n", p->left - 8, y + 4, ppm);
    }
    for (size_t t = p->first; t < s->weeks; t++) {
        if (t > 0 && strncmp(s->date[t], s->date[t - 1], 4) == 0)
            continue; /* not the first week of a year */
        double x = x_of(p, t);
        fprintf(svg, "<path d='M%.1f %.1fv%.1f' class='grid'/>", x, p->top, p->height);
        fprintf(svg, "<text x='%.1f' y='%.1f' text-anchor='middle'>%.4s</text>\n", x, bottom + 18, s->date[t]);
    }
    fprintf(svg, "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' class='frame'/>\n", p->left, p->top, p->width,
            p->height);
    fprintf(svg, "<text transform='translate(%.1f %.1f) rotate(-90)' text-anchor='middle'>CO&#8322;, ppm</text>\n",
            p->left - 46, p->top + p->height / 2);
}

static void draw_line(FILE *svg, const struct panel *p, const double *ppm, size_t first, const char *class) {
    fprintf(svg, "<path class='%s' d='", class);
    for (size_t t = first; t <= p->last; t++)
        fprintf(svg, "%c%.1f %.1f", t == first ? 'M' : 'L', x_of(p, t), y_of(p, ppm[t]));
    fprintf(svg, "'/>\n");
}

static void draw_points(FILE *svg, const struct panel *p, const struct series *s, double radius) {
    fprintf(svg, "<g class='measured'>");
    for (size_t t = p->first; t < s->weeks; t++)
        if (!isnan(s->measured[t]))
            fprintf(svg, "<circle cx='%.1f' cy='%.1f' r='%.1f'/>", x_of(p, t), y_of(p, s->measured[t]), radius);
    fprintf(svg, "</g>\n");
}

static void draw_plot(const struct series *s, const struct score scores[NUM_FORECASTS], const char *path) {
    FILE *svg = open_file(path, "w");
    size_t last = s->weeks - 1 + HORIZON, first_forecast = s->first_streamed + HORIZON;
    struct panel all = {70, 130, 990, 250, s->first_streamed, last, 0, 0};
    size_t six_years = 6 * YEAR + 1; /* 312 weeks are eight days short of six years */
    size_t zoom_first = s->weeks - first_forecast > six_years ? s->weeks - six_years : first_forecast;
    struct panel zoom = {70, 450, 990, 300, zoom_first, last, 0, 0};

    fprintf(svg, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1090 790' width='1090' height='790'>\n"
                 "<title>Mauna Loa CO2, forecast 13 weeks ahead by a streamed lite-mamba model</title>\n"
                 "<style>text{font:13px sans-serif;fill:#444} .title{font-size:20px;font-weight:bold;fill:#111}"
                 " .head{font-weight:bold} path{fill:none} .grid{stroke:#e4e4e4} .frame{fill:none;stroke:#888}"
                 " .model{stroke:#d1495b;stroke-width:2} .seasonal{stroke:#3d7ea6;stroke-width:1.3;"
                 "stroke-dasharray:5 3} .measured{fill:#333;fill-opacity:.65}</style>\n"
                 "<rect width='1090' height='790' fill='#fff'/>\n"
                 "<text x='70' y='36' class='title'>Weekly CO&#8322; at Mauna Loa, forecast 13 weeks ahead</text>\n");

    fprintf(svg, "<g class='measured'><circle cx='78' cy='62' r='2.2'/><circle cx='86' cy='60' r='2.2'/>"
                 "<circle cx='94' cy='62' r='2.2'/></g><text x='104' y='66'>measured</text>\n");
    fprintf(svg, "<path d='M190 62h30' class='model'/><text x='228' y='66'>%s: RMSE %.2f ppm</text>\n",
            forecast_names[MODEL], scores[MODEL].rmse);
    fprintf(svg, "<path d='M450 62h30' class='seasonal'/><text x='488' y='66'>%s: RMSE %.2f ppm</text>\n",
            forecast_names[SEASONAL], scores[SEASONAL].rmse);
    fprintf(svg, "<text x='70' y='90'>Not drawn: %s, RMSE %.2f ppm; %s, RMSE %.2f ppm. %zu weeks scored, none of them"
                 " seen in training.</text>\n",
            forecast_names[PERSISTENCE], scores[PERSISTENCE].rmse, forecast_names[SEASONAL_GROWTH],
            scores[SEASONAL_GROWTH].rmse, scores[MODEL].weeks);

    draw_panel(svg, &all, s, "All streamed weeks", 10);
    draw_points(svg, &all, s, 1.3);
    draw_line(svg, &all, s->forecast[MODEL], first_forecast, "model");

    draw_panel(svg, &zoom, s, "The last six years, and 13 weeks past the last measurement", 5);
    draw_points(svg, &zoom, s, 2.2);
    draw_line(svg, &zoom, s->forecast[SEASONAL], zoom.first, "seasonal");
    draw_line(svg, &zoom, s->forecast[MODEL], zoom.first, "model");
    fprintf(svg, "</svg>\n");
    if (fclose(svg) != 0)
        fail(path, "cannot be written");
}

int main(int argc, char **argv) {
    const char *directory = argc > 1 ? argv[1] : "examples/co2";
    const char *plot = argc > 2 ? argv[2] : "co2_forecast.svg";
    static struct series s; /* static for its size, and to start as zeros */
    static struct model model;

    printf("%s\n", lm_build_info());
    read_series(&s, join(directory, "co2_weekly.csv"));
    read_reference(&s, join(directory, "co2_reference.csv"));
    prepare(&s);
    model_load(&model, directory);

    model_prefill(&model, s.features, s.first_streamed);
    printf("prefill   %4zu weeks, %s to %s\n", s.first_streamed, s.date[0], s.date[s.first_streamed - 1]);

    double difference = 0.0;
    for (size_t t = s.first_streamed; t < s.weeks; t++) {
        size_t due = t + HORIZON;
        float change = model_step(&model, s.features[t]);
        difference = fmax(difference, fabs((double)change - (double)s.reference_change[t]));
        s.forecast[MODEL][due] = s.co2[t] + change;
        s.forecast[PERSISTENCE][due] = s.co2[t];
        s.forecast[SEASONAL][due] = s.co2[due - YEAR];
        s.forecast[SEASONAL_GROWTH][due] = s.co2[due - YEAR] + s.co2[t] - s.co2[t - YEAR];
    }
    printf("streamed  %4zu weeks, %s to %s\n", s.weeks - s.first_streamed, s.date[s.first_streamed],
           s.date[s.weeks - 1]);
    for (int i = 0; i < NUM_LAYERS; i++)
        printf("layer %d: state of %zu bytes after %llu weeks\n", i, lm_cache_bytes(model.caches[i]),
               (unsigned long long)lm_cache_seqlen_offset(model.caches[i]));
    model_free(&model);

    struct score scores[NUM_FORECASTS];
    printf("\n%-26s%10s%10s   (ppm, 13 weeks ahead)\n", "forecast", "RMSE", "MAE");
    for (int i = 0; i < NUM_FORECASTS; i++) {
        scores[i] = score(&s, s.forecast[i]);
        printf("%-26s%10.3f%10.3f\n", forecast_names[i], scores[i].rmse, scores[i].mae);
    }
    printf("over %zu measured weeks that training never saw\n", scores[MODEL].weeks);
    printf("largest difference from PyTorch: %.2g ppm\n", difference);

    draw_plot(&s, scores, plot);
    printf("plot: %s\n", plot);

    /* So that the demo can fail: f32 rounding alone stays far below a ten-thousandth of a ppm. */
    bool good = difference < 1e-4 && scores[MODEL].rmse < scores[PERSISTENCE].rmse &&
                scores[MODEL].rmse < scores[SEASONAL].rmse;
    if (!good)
        fprintf(stderr, "forecast: the model missed PyTorch's outputs or lost to a naive forecast\n");
    return good ? 0 : 1;
}
