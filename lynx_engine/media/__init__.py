"""Pictures and videos as files: photos in, clips out. It knows no models and no campaigns."""
