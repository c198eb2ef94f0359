"""How models learn: by gradient descent on prompts of examples or of tokens, or in closed form on frozen features.

training                gradient descent, whatever the loss; a model of examples
losses                  the squared error, and cross-entropy of classes
token_training          a model of tokens
pack                    trainings of one shape that take their steps together
fitting                 ridge regression of a model that is linear in its parameters
random_feature_ridge    ridge regression on the features of frozen weights
attention_training      attention of one layer, trained as a whole
"""
