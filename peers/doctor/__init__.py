"""Find what is wrong with a database, the way to it, and the peers that use it.

`examination.examine` makes every check. Checks that SQL can make are functions of the schema
(sql/74_doctor_*.sql). The modules here make those that need a client: one module for each subject.
"""
