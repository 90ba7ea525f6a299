# The native pages; /board is in spin.toml.

from django.urls import path
from scores import views

urlpatterns = [path("", views.home, name="home")]
