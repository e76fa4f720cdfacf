/* rope.c - rotary embeddings: what config.json says about them, and the frequencies that follow.
 *
 * The frequencies are computed in float32 in the order of operations of transformers
 * (modeling_rope_utils.py), so that they differ from its own by the rounding of pow() at most.
 */
#include "core/model/rope.h"
#include "core/base/base.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PI 3.14159265358979323846
#define DEFAULT_THETA 10000.0 /* default_theta in transformers, for every family read here */
#define LARGEST 1e15          /* of bases and factors: far past any real one, squares stay finite */

static const char *const kinds[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic",
    [ROPE_YARN] = "yarn",       [ROPE_LLAMA3] = "llama3",
};

const char *rope_kind_name(enum rope_kind k)
{
    return kinds[k];
}

/* Rotating a part of each head only is arithmetic of other families. */
static int check_partial(const char *name, const cJSON *object)
{
    double part = 1;
    if (json_double(name, object, "partial_rotary_factor", 0, 1, &part)) return -1;
    if (part != 1)
        return fail("%s: \"partial_rotary_factor\": expected 1, found %g; partial rotation is not "
                    "supported",
                    name, part);
    return 0;
}

/* rope_type, or type in the old spelling; a set without either is the default kind, unless it asks
 * for a factor. */
static int read_kind(enum rope_kind *kind, const char *where, const cJSON *set)
{
    const char *type = NULL;
    if (json_string(where, set, "rope_type", &type)) return -1;
    if (type == NULL && json_string(where, set, "type", &type)) return -1;
    if (type == NULL && json_member(set, "factor"))
        return fail("%s: \"rope_type\": expected the kind of scaling, found nothing", where);
    *kind = ROPE_DEFAULT;
    if (type == NULL) return 0;
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        if (strcmp(type, kinds[k]) == 0) {
            *kind = (enum rope_kind)k;
            return 0;
        }
    return fail("%s: \"rope_type\": expected default, linear, dynamic, yarn or llama3, found %s",
                where, type);
}

/* The base: of the set, else of the top level, else the default. A null at the top level is not a
 * choice of the default. */
static int read_theta(double *theta, const char *name, const char *where, const cJSON *root,
                      const cJSON *set)
{
    const cJSON *top = cJSON_GetObjectItemCaseSensitive(root, "rope_theta");
    const cJSON *own = set ? json_member(set, "rope_theta") : NULL;
    *theta = DEFAULT_THETA;
    if (own == NULL && top && cJSON_IsNull(top))
        return fail("%s: \"rope_theta\": expected a number, found null", name);
    if (own ? json_double(where, set, "rope_theta", 0, LARGEST, theta)
            : json_double(name, root, "rope_theta", 0, LARGEST, theta))
        return -1;
    if (!(*theta > 1))
        return fail("%s: \"rope_theta\": expected a number above 1, found %g", own ? where : name,
                    *theta);
    return 0;
}

/* The length before scaling. A top-level key goes before the set's, as in transformers (Phi-3
 * configs write it there). */
static int read_original(int *length, const char *name, const char *where, const cJSON *root,
                         const cJSON *set, int max_position)
{
    *length = max_position;
    return json_int(where, set, "original_max_position_embeddings", 1, INT_MAX, length) ||
           json_int(name, root, "original_max_position_embeddings", 1, INT_MAX, length);
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static int read_yarn(struct rope_config *r, const char *where, const cJSON *set, int max_position)
{
    const cJSON *attention = json_member(set, "attention_factor");
    const cJSON *truncate = cJSON_GetObjectItemCaseSensitive(set, "truncate");
    double mscale = 0, mscale_all = 0;

    if (json_member(set, "factor") == NULL) /* an explicit null: the ratio of the two lengths */
        r->factor = (double)max_position / r->original_max_position;
    if (json_double(where, set, "beta_fast", 0, LARGEST, &r->beta_fast) ||
        json_double(where, set, "beta_slow", 0, LARGEST, &r->beta_slow) ||
        json_double(where, set, "mscale", 0, LARGEST, &mscale) ||
        json_double(where, set, "mscale_all_dim", 0, LARGEST, &mscale_all) ||
        json_bool(where, set, "truncate", &r->truncate))
        return -1;
    if (truncate && cJSON_IsNull(truncate)) r->truncate = false; /* as transformers reads it */
    if (r->beta_fast == 0) r->beta_fast = 32;                    /* zero counts as not given */
    if (r->beta_slow == 0) r->beta_slow = 1;
    if (r->beta_fast < r->beta_slow)
        return fail("%s: \"beta_fast\": expected at least beta_slow (%g), found %g", where,
                    r->beta_slow, r->beta_fast);

    if (attention) {
        if (json_double(where, set, "attention_factor", 0, LARGEST, &r->attention_factor))
            return -1;
        if (r->attention_factor == 0)
            return fail("%s: \"attention_factor\": expected a number above 0, found 0", where);
    } else if (mscale != 0 && mscale_all != 0) {
        r->attention_factor = yarn_scale(r->factor, mscale) / yarn_scale(r->factor, mscale_all);
    } else {
        r->attention_factor = yarn_scale(r->factor, 1);
    }
    return 0;
}

static int read_llama3(struct rope_config *r, const char *where, const cJSON *set)
{
    static const char *const keys[] = {"low_freq_factor", "high_freq_factor"};
    double *values[] = {&r->low_freq, &r->high_freq};
    for (int i = 0; i < 2; i++) {
        if (json_member(set, keys[i]) == NULL)
            return fail("%s: \"%s\": expected a number, found nothing", where, keys[i]);
        if (json_double(where, set, keys[i], 0, LARGEST, values[i])) return -1;
        if (*values[i] == 0)
            return fail("%s: \"%s\": expected a number above 0, found 0", where, keys[i]);
    }
    if (r->high_freq <= r->low_freq)
        return fail("%s: \"high_freq_factor\": expected more than low_freq_factor (%g), found %g",
                    where, r->low_freq, r->high_freq);
    return 0;
}

/* One set of parameters: the object SET at ROOT's key KEY, or NULL for no scaling. */
static int read_set(struct rope_config *r, const char *name, const cJSON *root, const char *key,
                    const cJSON *set, int max_position, int D)
{
    int rc = -1;
    char *where = xprintf("%s: %s", name, key);

    *r = (struct rope_config){.kind = ROPE_DEFAULT,
                              .factor = 1,
                              .original_max_position = max_position,
                              .low_freq = 1,
                              .high_freq = 1,
                              .beta_fast = 32,
                              .beta_slow = 1,
                              .attention_factor = 1,
                              .truncate = true};
    if (read_theta(&r->theta, name, where, root, set)) goto done;
    if (set == NULL) {
        rc = 0;
        goto done;
    }
    for (const cJSON *item = set->child; item; item = item->next)
        if (cJSON_IsObject(item)) {
            fail("%s: expected one set of parameters, found one for each kind of layer (\"%s\")",
                 where, item->string);
            goto done;
        }
    if (check_partial(where, set) || read_kind(&r->kind, where, set)) goto done;
    if (json_member(set, "mrope_section")) {
        fail("%s: \"mrope_section\": expected no such key; rotation by sections is not supported",
             where);
        goto done;
    }
    if (r->kind != ROPE_DEFAULT) {
        const cJSON *factor = cJSON_GetObjectItemCaseSensitive(set, "factor");
        if (factor == NULL || (cJSON_IsNull(factor) && r->kind != ROPE_YARN)) {
            fail("%s: \"factor\": expected a number, found %s", where, json_kind(factor));
            goto done;
        }
        if (json_double(where, set, "factor", 1, LARGEST, &r->factor)) goto done;
    }
    if ((r->kind == ROPE_YARN || r->kind == ROPE_LLAMA3) &&
        read_original(&r->original_max_position, name, where, root, set, max_position))
        goto done;
    if (r->kind == ROPE_YARN && read_yarn(r, where, set, max_position)) goto done;
    if (r->kind == ROPE_LLAMA3 && read_llama3(r, where, set)) goto done;
    if (r->kind == ROPE_DYNAMIC && D == 2) {
        fail("%s: \"rope_type\": dynamic scaling needs a head width above 2", where);
        goto done;
    }
    rc = 0;

done:
    free(where);
    return rc;
}

static bool same(const struct rope_config *a, const struct rope_config *b)
{
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->original_max_position == b->original_max_position && a->low_freq == b->low_freq &&
           a->high_freq == b->high_freq && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->attention_factor == b->attention_factor &&
           a->truncate == b->truncate;
}

int rope_config_read(struct rope_config *r, const char *name, const cJSON *root, int max_position,
                     int D)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    const cJSON *set[2];
    struct rope_config other;

    for (int i = 0; i < 2; i++) {
        set[i] = json_member(root, keys[i]);
        if (set[i] && !cJSON_IsObject(set[i]))
            return fail("%s: \"%s\": expected an object, found %s", name, keys[i],
                        json_kind(set[i]));
        if (set[i] && set[i]->child == NULL) set[i] = NULL; /* {} says nothing */
    }
    if (check_partial(name, root)) return -1;
    int use = set[0] ? 0 : 1;
    if (read_set(r, name, root, keys[use], set[use], max_position, D)) return -1;
    if (set[0] == NULL || set[1] == NULL) return 0;
    if (read_set(&other, name, root, keys[1], set[1], max_position, D)) return -1;
    if (!same(r, &other))
        return fail("%s: \"rope_scaling\" and \"rope_parameters\" are both given and disagree",
                    name);
    return 0;
}

/* Base of the frequencies under dynamic scaling, bloc97 and emozilla's NTK formula. Up to the
 * trained length transformers evaluates it once in double, for longer prompts in float32. */
static float dynamic_base(const struct rope_config *r, int max_position, int D, int length)
{
    const double power = (double)D / (D - 2);
    if (length <= max_position) {
        double stretch = r->factor * max_position / max_position - (r->factor - 1);
        return (float)(r->theta * pow(stretch, power));
    }
    float stretch = (float)r->factor * (float)length / (float)max_position;
    stretch -= (float)(r->factor - 1);
    return (float)r->theta * (float)pow(stretch, power);
}

/* Dimension at which a frequency turns ROTATIONS times over the trained length; Peng et al. 2023
 * (YaRN), section 3.2. */
static double yarn_dimension(const struct rope_config *r, int D, double rotations)
{
    return D * log(r->original_max_position / (rotations * 2 * PI)) / (2 * log(r->theta));
}

/* Blends extrapolation (fast dimensions) into interpolation (slow ones) along a ramp. POWERS is
 * [D/2]: theta^(2i/D). */
static void yarn_frequencies(const struct rope_config *r, int D, const float *powers,
                             float *inv_freq)
{
    double low = yarn_dimension(r, D, r->beta_fast), high = yarn_dimension(r, D, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    if (low < 0) low = 0;
    if (high > D - 1) high = D - 1;
    if (low == high) high += 0.001; /* no division by zero */
    const float start = (float)low, width = (float)(high - low);

    for (int i = 0; i < D / 2; i++) {
        float ramp = ((float)i - start) / width;
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1 - ramp;
        float extrapolated = 1.0f / powers[i];
        float interpolated = 1.0f / ((float)r->factor * powers[i]);
        float slow = interpolated * (1 - keep), fast = extrapolated * keep;
        inv_freq[i] = slow + fast;
    }
}

/* Divides the slow frequencies of inv_freq [half] by the factor and leaves the fast ones, with a
 * smooth passage between; the recipe of Llama 3.1. PyTorch divides a number by a tensor as the
 * number times the reciprocal, hence the two reciprocals. */
static void llama3_frequencies(const struct rope_config *r, int half, float *inv_freq)
{
    const float factor = (float)r->factor;
    const float low = (float)r->low_freq, length = (float)r->original_max_position;
    const float width = (float)(r->high_freq - r->low_freq);
    const float longest = (float)(r->original_max_position / r->low_freq);
    const float shortest = (float)(r->original_max_position / r->high_freq);

    for (int i = 0; i < half; i++) {
        float f = inv_freq[i], wavelength = 1 / f * (float)(2 * PI);
        if (wavelength > longest) {
            inv_freq[i] = f / factor;
        } else if (!(wavelength < shortest)) {
            float smooth = (1 / wavelength * length - low) / width;
            float scaled = (1 - smooth) * f / factor, kept = smooth * f;
            inv_freq[i] = scaled + kept;
        }
    }
}

void rope_frequencies(const struct model_config *c, int length, float *inv_freq, float *scale)
{
    const struct rope_config *r = &c->rope;
    const int half = c->D / 2;
    const float base =
        r->kind == ROPE_DYNAMIC ? dynamic_base(r, c->max_position, c->D, length) : (float)r->theta;

    *scale = r->kind == ROPE_YARN ? (float)r->attention_factor : 1;
    for (int i = 0; i < half; i++) inv_freq[i] = powf(base, (float)(2 * i) / (float)c->D);
    if (r->kind == ROPE_YARN) {
        yarn_frequencies(r, c->D, inv_freq, inv_freq);
        return;
    }
    for (int i = 0; i < half; i++) inv_freq[i] = 1.0f / inv_freq[i];
    if (r->kind == ROPE_LINEAR)
        for (int i = 0; i < half; i++) inv_freq[i] /= (float)r->factor;
    if (r->kind == ROPE_LLAMA3) llama3_frequencies(r, half, inv_freq);
}
