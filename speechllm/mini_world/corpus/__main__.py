from speechllm.mini_world.corpus.command import main

main()
