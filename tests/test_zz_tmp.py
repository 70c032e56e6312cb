import sys; sys.path.insert(0,'/work/main/tests')
import tiny, time
def test_a(tmp_path):
  t=time.time(); tiny.learned(tmp_path/'a'); print('lenet', time.time()-t)
  t=time.time(); tiny.learned(tmp_path/'b','norm'); print('norm', time.time()-t)
  t=time.time(); tiny.learn(tiny.make(),tmp_path/'c'); print('again', time.time()-t)
