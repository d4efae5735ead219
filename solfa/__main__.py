from solfa.cli import main

main()
