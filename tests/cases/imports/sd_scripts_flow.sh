#!/bin/bash
# A rectified flow model with sd-scripts.
MODEL=models/flow
accelerate launch --mixed_precision bf16 --num_processes=1 sd3_train_network.py \
  --pretrained_model_name_or_path "$MODEL" --train_data_dir images --output_dir "out/flow" \
  --network_module networks.lora_sd3 --network_dim 16 --network_train_unet_only \
  --cache_text_encoder_outputs --cache_latents --gradient_checkpointing --resolution 1024,1024 \
  --learning_rate 1e-4 --lr_scheduler constant --lr_warmup_steps 100 --max_train_steps 2000 \
  --training_shift 3.0 --optimizer_type prodigy
