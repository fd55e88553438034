source /work/venv/bin/activate; export OMP_NUM_THREADS=1 FENCHEL_DATA=/work/data PYTHONPATH=/work/frozen/molearn
cd /work/frozen/molearn; O=/work/tmp/molearn/runs
n=$1; shift; rm -rf $O/$n; /work/tmp/slot python -W ignore scripts/run.py "$@" threads=1 out=$O/$n > $O/../log_$n 2>&1
