export MODEL_NAME="stable-diffusion-v1-5/stable-diffusion-v1-5"
export OUTPUT_DIR="out/dog"
accelerate launch --mixed_precision="fp16" train_dreambooth_lora.py \
  --pretrained_model_name_or_path=$MODEL_NAME \
  --instance_data_dir=dog \
  --output_dir=$OUTPUT_DIR \
  --instance_prompt="a photo of sks dog" \
  --with_prior_preservation --class_data_dir=class_dogs --class_prompt="a photo of a dog" \
  --num_class_images=200 --prior_loss_weight=1.0 \
  --resolution=512 --train_batch_size=1 --gradient_accumulation_steps=1 \
  --learning_rate=1e-4 --lr_scheduler="constant" --lr_warmup_steps=0 --max_train_steps=500 \
  --validation_prompt="A photo of sks dog in a bucket" --validation_epochs=50 --checkpointing_steps=100 \
  --report_to="wandb" --push_to_hub --seed="0"
