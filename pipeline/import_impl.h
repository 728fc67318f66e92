/* What the parts of the importer share: onnx_import.c walks the nodes, import_expand.c writes out
 * those that stand for several, import_input.c decides what is the picture, import_output.c what is
 * explained. */
#ifndef PG_PIPELINE_IMPORT_IMPL_H
#define PG_PIPELINE_IMPORT_IMPL_H

#include "pipeline/fold.h"
#include "pipeline/onnx_import.h"

/* Every name of the file is bound to one of these. SEQUENCE: pieces of `value`, which nobody has cut
 * yet. LOST: what an unsupported node would have made, or an output nobody can read. */
typedef enum pg_binding_kind {
    PG_UNBOUND,
    PG_CONSTANT,
    PG_VALUE,
    PG_SEQUENCE,
    PG_LOST,
} pg_binding_kind;

typedef struct pg_binding {
    pg_binding_kind kind;
    const pg_const *constant;
    int value; /* number in the graph */
    const pg_op_def *sequence; /* the SplitToSequence */
} pg_binding;

typedef struct pg_importer {
    pg_import *job;
    pg_names names;
    pg_onnx_model model;
    pg_onnx_node *nodes;  /* [n_nodes], in the load pool */
    int n_nodes;
    bool *live;           /* [n_nodes] leads to the output */
    bool *wanted;         /* [names.count] likewise for names */
    int squash;           /* the node at the end to leave out (softmax, sigmoid), -1: none */
    pg_binding *bindings; /* [names.count] */
    pg_folder folder;
    pg_onnx_value *input_values; /* [model.n_inputs] */
    int output;                  /* name of the chosen output */
    pg_refusals *refusals;
} pg_importer;

static inline pg_err pg_import_no_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

static inline const char *pg_import_name(const pg_importer *im, int id) {
    return pg_names_text(&im->names, id);
}

/* A copy of a name that lives as long as the model; NULL: out of memory. */
const char *pg_import_keep(pg_importer *im, const char *text);

/* Appends to a list in a message; what does not fit ends in an ellipsis. */
void pg_import_list(char *list, size_t size, const char *text);

/* True for types that something here can make of, whatever their inputs. */
bool pg_import_knows(const char *type);

/* Puts a node on the list of what is not supported. `why` NULL: its type is not known, or it works
 * on constants only. */
pg_err pg_import_refuse(pg_importer *im, int index, const pg_op_def *def, const char *why,
                        pg_diag *diag);

/* import_expand.c: writes out nodes that stand for several. After reading, before anything else. */
pg_err pg_import_expand(pg_importer *im, pg_diag *diag);

/* import_input.c: which input is the picture, and what the others hold. Binds them all. After
 * names and initialisers are bound. */
pg_err pg_import_inputs(pg_importer *im, pg_diag *diag);

/* import_sequence.c. True for the two types it knows. At: turns the definition of a SequenceAt into
 * that of the Slice or Gather it means. PG_EMODEL: it cannot. */
bool pg_import_is_sequence(const pg_op_def *def);
pg_err pg_import_sequence_at(pg_importer *im, const pg_binding *sequence, pg_op_def *def,
                             pg_diag *diag);

/* import_output.c. Choose: before the bindings exist. Find live: which nodes and names lead to
 * the chosen output and which softmax or sigmoid ends them; fills `live` and `wanted`. Check squash:
 * whether that node's shape really makes it one over the classes, when its turn comes. Bind: after
 * the last node. */
pg_err pg_import_choose_output(pg_importer *im, pg_diag *diag);
void pg_import_find_live(pg_importer *im);
void pg_import_check_squash(pg_importer *im, const pg_op_def *def);
pg_err pg_import_bind_output(pg_importer *im, pg_diag *diag);

#endif
