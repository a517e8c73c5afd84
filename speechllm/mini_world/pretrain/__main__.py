from speechllm.mini_world.pretrain.command import main

main()
